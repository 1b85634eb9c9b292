-- needs prelude
-- An operator wants a new run; a round that can be given up is, and any other ends first.
-- KEYS 1 round, 2 successor.
-- ARGV 1 instant or '', 2 events channel, 3 instance, then the fields and values of its record.
-- accepted | moved_on.
local round = read(KEYS[1])
if not round.ref then return word('moved_on') end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], unpack(ARGV, 4))
redis.call('HSET', KEYS[1], 'successor', ARGV[3], 'is_disabled', '0')
if not finishable(round) then give_up(KEYS[1], 'job_restarted', clock(ARGV[1])) end
redis.call('PUBLISH', ARGV[2], 'restart')
return word('accepted')
