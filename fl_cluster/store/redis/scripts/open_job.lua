-- needs prelude
-- The first member creates the job's records; later ones find them.  Records of an earlier
-- round of the same run are replaced: the store went back in time, and a member knows better.
-- KEYS 1 instance, 2 round, 3 models.
-- ARGV 1 number of the model the first round starts from, 2 its record, 3 name of the call,
-- 4 instance, 5 number of the first round, 6 how many fields the instance has, then those
-- fields and values, then the round's.
-- created | exists.
if redis.call('HGET', KEYS[1], 'opened_by') == ARGV[3] then return word('created') end
local round, run = read(KEYS[2]), redis.call('HGET', KEYS[1], 'name')
local is_behind = run == ARGV[4] and round.ref and tonumber(round.number) < tonumber(ARGV[5])
if run and round.ref and not is_behind then return word('exists') end
local last = 6 + 2 * ARGV[6]
redis.call('HSET', KEYS[1], 'opened_by', ARGV[3], unpack(ARGV, 7, last))
if not is_behind then redis.call('DEL', KEYS[3]) end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], unpack(ARGV, last + 1))
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
return word('created')
