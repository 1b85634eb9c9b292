-- needs prelude
-- A device was handed the model that the round before this one ended with.
-- KEYS 1 round.  ARGV 1 ref.
-- accepted | moved_on.
if redis.call('HGET', KEYS[1], 'ref') ~= ARGV[1] then return word('moved_on') end
redis.call('HSET', KEYS[1], 'served', '1')
return word('accepted')
