-- needs prelude
-- Add to the round's counters of requests; a call that is sent twice counts twice.
-- KEYS 1 visits, 2 round.
-- ARGV 1 ref, 2 key lifetime in ms while the round lasts, 3 afterwards, then pairs: counter,
-- increment.
-- OK.
for i = 4, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], is_current(KEYS[2], ARGV[1]) and ARGV[2] or ARGV[3])
return word('OK')
