-- needs prelude
-- Time has passed: a round that waits for devices or a worker in vain is to be abandoned.
-- KEYS 1 round.  ARGV 1 ref, 2 instant or '', 3 events channel.
-- accepted | moved_on.
local round = read(KEYS[1])
if round.ref ~= ARGV[1] then return word('moved_on') end
local waits = collecting(round) or round.phase == 'unmasking' or round.phase == 'retraining'
if not waits then return word('accepted') end
local now = clock(ARGV[2])
local reason = overdue(round, now)
if not reason then return word('accepted') end
give_up(KEYS[1], reason, now)
redis.call('PUBLISH', ARGV[3], 'abandoning')
return word('accepted')
