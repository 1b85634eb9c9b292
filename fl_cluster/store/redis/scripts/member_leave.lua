-- A member ends its life by itself; its claims were freed before.
-- KEYS 1 members, 2 leases.  ARGV 1 member.
-- left | unknown.
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return redis.status_reply('unknown') end
return redis.status_reply('left')
