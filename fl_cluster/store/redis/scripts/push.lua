-- needs prelude
-- A worker hands in what it made of the mean, and a member has stored it.  The same weights
-- again give the same answer: their record is the same.
-- KEYS 1 round.  ARGV 1 ref, 2 instant or '', 3 record of what it made, 4 '1' when it is fit.
-- accepted | duplicate | enough | late | not_aggregated | moved_on.
local round = read(KEYS[1])
if round.ref ~= ARGV[1] then return word('moved_on') end
if unaggregated(round) then
  return word('not_aggregated')
end
if round.phase ~= 'retraining' and round.phase ~= 'concluding' then return word('enough') end
if round.pushed == ARGV[3] then return word('accepted') end
if round.pushed ~= '' then return word('duplicate') end
if round.phase == 'concluding' then return word('enough') end
if overdue(round, clock(ARGV[2])) then return word('late') end
redis.call('HSET', KEYS[1], 'pushed', ARGV[3], 'pushed_is_fit', ARGV[4])
return word('accepted')
