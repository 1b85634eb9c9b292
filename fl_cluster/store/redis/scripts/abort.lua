-- needs prelude
-- The round is to end without a new model, for a reason other than time.
-- KEYS 1 round.  ARGV 1 ref, 2 instant or '', 3 events channel, 4 reason, 5 name of the call.
-- accepted | nothing_to_finish | moved_on.
local round = read(KEYS[1])
if round.steered_by == ARGV[5] then return word('accepted') end
if round.ref ~= ARGV[1] then return word('moved_on') end
if round.phase == 'abandoning' or round.phase == 'closed' then return word('nothing_to_finish') end
give_up(KEYS[1], ARGV[4], clock(ARGV[2]))
redis.call('HSET', KEYS[1], 'steered_by', ARGV[5])
redis.call('PUBLISH', ARGV[3], 'abandoning')
return word('accepted')
