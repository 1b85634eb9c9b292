-- Tokens are made, revoked or given another end, unless somebody else has changed them since.
-- KEYS 1 tokens.
-- ARGV 1 version that the caller knows, 2 version from now on, 3 events channel, then pairs:
-- digest, record.
-- accepted | moved_on.
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return redis.status_reply('moved_on') end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'version', ARGV[2])
redis.call('PUBLISH', ARGV[3], 'tokens')
return redis.status_reply('accepted')
