-- needs prelude
-- A member gives up claims whose updates it could not add.
-- KEYS 1 round, 2 claims, 3 fenced.  ARGV 1 ref, 2 member, then devices.
-- accepted | enough | fenced | moved_on.
local round = read(KEYS[1])
if round.ref ~= ARGV[1] then return word('moved_on') end
if redis.call('ZSCORE', KEYS[3], ARGV[2]) then return word('fenced') end
if not collecting(round) then return word('enough') end
for i = 3, #ARGV do
  local claim = redis.call('HGET', KEYS[2], ARGV[i])
  if holder(claim) == ARGV[2] then redis.call('HDEL', KEYS[2], ARGV[i]) end
end
return word('accepted')
