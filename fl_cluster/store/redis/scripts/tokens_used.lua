-- Tokens were used; the latest use of each is kept.
-- KEYS 1 used.
-- ARGV: pairs of digest and instant.
-- OK.
for i = 1, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  if not known or tonumber(known) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return redis.status_reply('OK')
