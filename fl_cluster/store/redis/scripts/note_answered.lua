-- needs prelude
-- Answers have reached their devices; often the round is over by then.
-- KEYS 1 answered, 2 round.
-- ARGV 1 ref, 2 key lifetime in ms while the round lasts, 3 afterwards, then answers.
-- OK.
for i = 4, #ARGV do redis.call('SADD', KEYS[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], is_current(KEYS[2], ARGV[1]) and ARGV[2] or ARGV[3])
return word('OK')
