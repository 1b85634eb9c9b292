-- needs prelude
-- Drop what is kept of members that were fenced long ago.
-- KEYS 1 members, 2 leases, 3 fenced.  ARGV 1 how long ago in ms, 2 instant or ''.
-- How many there were.
local now = clock(ARGV[2])
local old = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[1], 'LIMIT', 0, 1000)
for _, member in ipairs(old) do
  redis.call('HDEL', KEYS[1], member)
  redis.call('ZREM', KEYS[2], member)
  redis.call('ZREM', KEYS[3], member)
end
return #old
