-- needs prelude
-- Members whose lease has ended and whom nobody has fenced yet.
-- KEYS 1 leases, 2 fenced.  ARGV 1 instant or ''.
-- A list of members.
local now = clock(ARGV[1])
local found = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  if not redis.call('ZSCORE', KEYS[2], member) then found[#found + 1] = member end
end
return found
