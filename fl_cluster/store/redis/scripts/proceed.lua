-- needs prelude
-- A member has found that what was revealed so far takes all masks off the sum.
-- KEYS 1 round.  ARGV 1 ref, 2 instant or '', 3 events channel, 4 name of the call.
-- accepted | enough | too_early | late | moved_on.
local round = read(KEYS[1])
if round.proceeded_by == ARGV[4] then return word('accepted') end
if round.ref ~= ARGV[1] then return word('moved_on') end
if round.phase == 'waiting' or collecting(round) then return word('too_early') end
if round.phase ~= 'unmasking' then return word('enough') end
local now = clock(ARGV[2])
if overdue(round, now) then return word('late') end
redis.call('HSET', KEYS[1], 'phase', 'aggregating', 'since', now, 'proceeded_by', ARGV[4])
redis.call('PUBLISH', ARGV[3], 'aggregating')
return word('accepted')
