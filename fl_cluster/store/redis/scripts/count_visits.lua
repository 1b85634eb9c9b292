-- Add to the round's counters of requests; a call that is sent twice counts twice.
-- KEYS 1 visits.  ARGV 1 key lifetime in ms, then pairs: counter, increment.
-- OK.
for i = 2, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.status_reply('OK')
