-- needs prelude
-- A process joins the job, or writes its record again after the store lost it.
-- KEYS 1 members, 2 leases, 3 fenced.
-- ARGV 1 member, 2 record, 3 lease in ms, 4 instant or ''.
-- renewed | fenced.
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return word('fenced') end
local now = clock(ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
return word('renewed')
