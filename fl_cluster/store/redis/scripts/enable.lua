-- needs prelude
-- An operator lets a disabled job go on.
-- KEYS 1 round.  ARGV 1 events channel, 2 name of the call.
-- accepted | already_enabled | job_finished | moved_on.
local round = read(KEYS[1])
if not round.ref then return word('moved_on') end
if round.steered_by == ARGV[2] then return word('accepted') end
if round.phase == 'closed' then return word('job_finished') end
if round.is_disabled ~= '1' then return word('already_enabled') end
redis.call('HSET', KEYS[1], 'is_disabled', '0', 'steered_by', ARGV[2])
redis.call('PUBLISH', ARGV[1], 'enabled')
return word('accepted')
