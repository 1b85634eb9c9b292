-- needs prelude
-- The first member creates the job's records; later ones find them.
-- KEYS 1 instance, 2 round, 3 models.
-- ARGV 1 number of the model the first round starts from, 2 its record, 3 name of the call,
-- 4 how many fields the instance has, then those fields and values, then the round's.
-- created | exists.
if redis.call('HGET', KEYS[1], 'opened_by') == ARGV[3] then return word('created') end
if redis.call('EXISTS', KEYS[1]) == 1 then return word('exists') end
local last = 4 + 2 * ARGV[4]
redis.call('HSET', KEYS[1], 'opened_by', ARGV[3], unpack(ARGV, 5, last))
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], unpack(ARGV, last + 1))
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
return word('created')
