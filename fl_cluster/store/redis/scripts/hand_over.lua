-- needs prelude
-- The member that merged a hybrid round's partials has stored the mean for the worker.
-- KEYS 1 round, 2 fenced.
-- ARGV 1 ref, 2 instant or '', 3 member, 4 record of the mean, 5 events channel.
-- accepted | nothing_to_finish | lease_lost | fenced | moved_on.
local round = read(KEYS[1])
if round.ref ~= ARGV[1] then return word('moved_on') end
if redis.call('ZSCORE', KEYS[2], ARGV[3]) then return word('fenced') end
local is_done = round.phase == 'retraining' or round.phase == 'concluding'
if is_done and round.aggregate == ARGV[4] then return word('accepted') end
if round.phase ~= 'aggregating' or not hybrid(round) then return word('nothing_to_finish') end
if round.lease_member ~= ARGV[3] then return word('lease_lost') end
local now = clock(ARGV[2])
redis.call('HSET', KEYS[1], 'phase', 'retraining', 'aggregate', ARGV[4], 'retraining_since', now,
  'pushed', '', 'pushed_is_fit', '', 'metrics', '', 'since', '', 'lease_member', '',
  'lease_until', '')
redis.call('PUBLISH', ARGV[5], 'retraining')
return word('accepted')
