-- A member holds what a lost job can be built from, up to this round.
-- KEYS 1 nominees.  ARGV 1 round number, 2 key lifetime in ms.
-- The highest round number that anyone holds.
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(redis.call('ZREVRANGE', KEYS[1], 0, 0)[1])
