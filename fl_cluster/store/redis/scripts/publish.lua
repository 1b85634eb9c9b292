-- needs prelude
-- The member that finished the round makes the outcome visible and opens the next round.
-- KEYS 1 round, 2 models, 3 instance, 4 fenced, then the keys of the finished round.
-- ARGV 1 ref, 2 member, 3 next ref, 4 model record, 5 number of the model to drop,
-- 6 '1' when the job is finished, 7 lifetime of the finished round's keys in ms, 8 events channel,
-- 9 failed rounds in a row for the next round to know, 10 name of the call.
-- accepted | nothing_to_finish | lease_lost | fenced | moved_on.
local round = read(KEYS[1])
if round.ref == ARGV[3] and round.published_by == ARGV[10] then return word('accepted') end
if round.ref ~= ARGV[1] then return word('moved_on') end
if redis.call('ZSCORE', KEYS[4], ARGV[2]) then return word('fenced') end
if not ending(round) then return word('nothing_to_finish') end
if round.lease_member ~= ARGV[2] then return word('lease_lost') end
redis.call('HSET', KEYS[2], round.number, ARGV[4])
redis.call('HDEL', KEYS[2], ARGV[5])
local outcome = round.phase == 'aggregating' and 'committed' or 'abandoned'
local phase = ARGV[6] == '1' and 'closed' or 'waiting'
redis.call('HSET', KEYS[1], 'ref', ARGV[3], 'number', round.number + 1, 'phase', phase,
  'opened_at', '', 'first_report_at', '', 'since', '', 'reason', '', 'lease_member', '',
  'lease_until', '', 'served', '0', 'last_outcome', outcome, 'last_reason', round.reason,
  'failures_in_a_row', ARGV[9], 'published_by', ARGV[10])
if ARGV[6] == '1' then redis.call('HSET', KEYS[3], 'state', 'finished') end
for i = 5, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[7]) end
redis.call('PUBLISH', ARGV[8], outcome)
return word('accepted')
