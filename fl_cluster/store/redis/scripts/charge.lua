-- needs prelude
-- Before noise is added to the sum of a round: its seed is fixed and its cost is counted, both
-- by the first who asks and in one step; who takes over from a member that died gets the same.
-- KEYS 1 round, 2 noise, 3 charges, 4 fenced.
-- ARGV 1 ref, 2 member, 3 name of the release, 4 seed, 5 lifetime of the seed in ms.
-- accepted | nothing_to_finish | lease_lost | fenced | moved_on; then, if accepted, the seed.
local round = read(KEYS[1])
if round.ref ~= ARGV[1] then return { word('moved_on') } end
if redis.call('ZSCORE', KEYS[4], ARGV[2]) then return { word('fenced') } end
if not ending(round) then return { word('nothing_to_finish') } end
if round.lease_member ~= ARGV[2] then return { word('lease_lost') } end
local seed = redis.call('GET', KEYS[2])
if not seed then
  seed = ARGV[4]
  redis.call('SET', KEYS[2], seed, 'PX', ARGV[5])
  redis.call('HINCRBY', KEYS[3], ARGV[3], 1)
end
return { word('accepted'), seed }
