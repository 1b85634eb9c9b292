-- Devices have been told that their update is counted.
-- KEYS 1 answered.  ARGV 1 key lifetime in ms, then devices.
-- OK.
for i = 2, #ARGV do redis.call('SADD', KEYS[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.status_reply('OK')
