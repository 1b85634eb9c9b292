-- needs prelude
-- A signed request came: whether its signature was used before, and for the same.
-- KEYS 1 signed.
-- ARGV 1 what it is used for, 2 how long that is remembered in ms.
-- fresh | repeated | replayed.
local known = redis.call('GET', KEYS[1])
if not known then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return word('fresh')
end
return known == ARGV[1] and word('repeated') or word('replayed')
