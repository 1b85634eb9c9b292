-- needs prelude
-- A device has proved who it is; of two proofs the one that was signed later is kept.
-- KEYS 1 attestations, 2 round.
-- ARGV 1 ref, 2 key lifetime in ms while the round lasts, 3 afterwards, 4 device, 5 when it
-- signed, 6 its certificates.
-- OK.
local known = redis.call('HGET', KEYS[1], ARGV[4])
local signed = known and tonumber(string.match(known, '^%d+'))
if not signed or signed <= tonumber(ARGV[5]) then
  redis.call('HSET', KEYS[1], ARGV[4], ARGV[5] .. ' ' .. ARGV[6])
end
redis.call('PEXPIRE', KEYS[1], is_current(KEYS[2], ARGV[1]) and ARGV[2] or ARGV[3])
return word('OK')
