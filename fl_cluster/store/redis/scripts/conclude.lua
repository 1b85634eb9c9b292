-- needs prelude
-- A worker has said how good its model is, and so that it is done with the round.
-- KEYS 1 round.  ARGV 1 ref, 2 instant or '', 3 what it said, 4 events channel.
-- accepted | enough | late | not_aggregated | moved_on.
local round = read(KEYS[1])
if round.ref ~= ARGV[1] then return word('moved_on') end
if unaggregated(round) then
  return word('not_aggregated')
end
if round.phase == 'concluding' then return word('accepted') end
if round.phase ~= 'retraining' then return word('enough') end
local now = clock(ARGV[2])
if overdue(round, now) then return word('late') end
redis.call('HSET', KEYS[1], 'metrics', ARGV[3])
if round.pushed_is_fit == '0' then
  give_up(KEYS[1], 'retrained_unfit', now)
else
  redis.call('HSET', KEYS[1], 'phase', 'concluding', 'since', now)
end
redis.call('PUBLISH', ARGV[4], round.pushed_is_fit == '0' and 'abandoning' or 'concluding')
return word('accepted')
