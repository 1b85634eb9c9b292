-- needs prelude
-- A member offers to finish the round.
-- KEYS 1 round, 2 fenced.  ARGV 1 ref, 2 instant or '', 3 member, 4 lease in ms.
-- accepted | nothing_to_finish | leased | fenced | moved_on.
local round = read(KEYS[1])
if round.ref ~= ARGV[1] then return word('moved_on') end
if redis.call('ZSCORE', KEYS[2], ARGV[3]) then return word('fenced') end
if not ending(round) then return word('nothing_to_finish') end
local now = clock(ARGV[2])
local is_free = round.lease_member == '' or round.lease_member == ARGV[3]
if not is_free and now < tonumber(round.lease_until) then return word('leased') end
redis.call('HSET', KEYS[1], 'lease_member', ARGV[3], 'lease_until', now + ARGV[4])
return word('accepted')
