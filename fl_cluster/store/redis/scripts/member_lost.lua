-- needs prelude
-- A member was declared dead: it changes nothing any more, and what it was about to is free.
-- KEYS 1 round, 2 claims, 3 fenced.  ARGV 1 ref, 2 instant or '', 3 member, 4 events channel.
-- accepted | moved_on.
local round, member = read(KEYS[1]), ARGV[3]
if round.ref ~= ARGV[1] then return word('moved_on') end
if redis.call('ZADD', KEYS[3], 'NX', clock(ARGV[2]), member) == 0 then return word('accepted') end
local claims = redis.call('HGETALL', KEYS[2])
for i = 1, #claims, 2 do
  if holder(claims[i + 1]) == member then redis.call('HDEL', KEYS[2], claims[i]) end
end
if round.lease_member == member then
  redis.call('HSET', KEYS[1], 'lease_member', '', 'lease_until', '')
end
redis.call('PUBLISH', ARGV[4], 'member_lost')
return word('accepted')
