-- needs prelude
-- A member says that it lives.  One that is overdue but not fenced is alive again.
-- KEYS 1 members, 2 leases, 3 fenced.
-- ARGV 1 member, 2 lease in ms, 3 instant or ''.
-- renewed | fenced | unknown.
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return word('fenced') end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return word('unknown') end
local now = clock(ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
return word('renewed')
