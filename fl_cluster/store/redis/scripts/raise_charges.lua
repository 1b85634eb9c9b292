-- needs prelude
-- A member knows what was charged, maybe better than a store that went back in time.
-- KEYS 1 charges.
-- ARGV are names of releases, each followed by how often it was made.
-- OK.
for i = 1, #ARGV, 2 do
  local known = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or 0)
  if known < tonumber(ARGV[i + 1]) then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return word('OK')
