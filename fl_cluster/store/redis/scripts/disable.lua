-- needs prelude
-- An operator stops the job until it is enabled again; a round that waits for others is given up.
-- KEYS 1 round.  ARGV 1 instant or '', 2 events channel, 3 name of the call.
-- accepted | already_disabled | job_finished | moved_on.
local round = read(KEYS[1])
if not round.ref then return word('moved_on') end
if round.steered_by == ARGV[3] then return word('accepted') end
if round.phase == 'closed' then return word('job_finished') end
if round.is_disabled == '1' then return word('already_disabled') end
redis.call('HSET', KEYS[1], 'is_disabled', '1', 'steered_by', ARGV[3])
if not finishable(round) then give_up(KEYS[1], 'job_disabled', clock(ARGV[1])) end
redis.call('PUBLISH', ARGV[2], 'disabled')
return word('accepted')
