-- needs prelude
-- Members whose lease has not ended.
-- KEYS 1 members, 2 leases, 3 fenced.  ARGV 1 instant or ''.
-- A list of records.
local now = clock(ARGV[1])
local records = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')) do
  local record = redis.call('HGET', KEYS[1], member)
  if record and not redis.call('ZSCORE', KEYS[3], member) then
    records[#records + 1] = record
  end
end
return records
