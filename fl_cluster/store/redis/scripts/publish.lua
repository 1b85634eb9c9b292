-- needs prelude
-- The member that finished the round makes the outcome visible and opens the next round.
-- KEYS 1 round, 2 models, 3 instance, 4 fenced, 5 successor, then the keys of the finished round.
-- ARGV 1 ref, 2 member, 3 next ref, 4 model record, 5 number of the model to drop,
-- 6 '1' when the job is finished, 7 lifetime of the finished round's keys in ms, 8 events channel,
-- 9 failed rounds in a row for the next round to know, 10 name of the call,
-- 11 successor or '', 12 record of its model, 13 '1' when the model is new (* not compared),
-- then the plan's fields and values.
-- accepted | nothing_to_finish | lease_lost | fenced | moved_on.
local round, successor = read(KEYS[1]), ARGV[11]
local commits = round.phase ~= 'abandoning'
if round.published_by == ARGV[10] then return word('accepted') end
if round.ref ~= ARGV[1] then return word('moved_on') end
if redis.call('ZSCORE', KEYS[4], ARGV[2]) then return word('fenced') end
if round.successor ~= successor then return word('moved_on') end
if round.phase == 'aggregating' and hybrid(round) then return word('moved_on') end
if not ending(round) then return word('nothing_to_finish') end
if ARGV[13] ~= '*' and (ARGV[13] == '1') ~= commits then return word('moved_on') end
if round.lease_member ~= ARGV[2] then return word('lease_lost') end
local outcome = commits and 'committed' or 'abandoned'
local reason, number, phase, served = round.reason, round.number + 1, 'waiting', '0'
if successor ~= '' then
  number, served, outcome, reason = 1, '1', '', ''
  redis.call('RENAME', KEYS[5], KEYS[3])
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], 0, ARGV[12])
  redis.call('HSET', KEYS[1], unpack(ARGV, 14))
else
  redis.call('HSET', KEYS[2], round.number, ARGV[4])
  redis.call('HDEL', KEYS[2], ARGV[5])
  if ARGV[6] == '1' then phase = 'closed' end
end
redis.call('HSET', KEYS[1], 'ref', ARGV[3], 'number', number, 'phase', phase,
  'opened_at', '', 'first_report_at', '', 'since', '', 'reason', '', 'lease_member', '',
  'lease_until', '', 'served', served, 'last_outcome', outcome, 'last_reason', reason,
  'last_ended_at', round.since, 'failures_in_a_row', ARGV[9], 'published_by', ARGV[10],
  'successor', '', 'aggregate', '', 'retraining_since', '', 'pushed', '', 'pushed_is_fit', '',
  'metrics', '', 'last_metrics', round.metrics or '', 'complete', '', 'keys_began', '',
  'shares_began', '', 'signatures_began', '', 'reveals_began', '', 'list_read_began', '')
for i = 6, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[7]) end
redis.call('PUBLISH', ARGV[8], outcome == '' and 'restarted' or outcome)
return word('accepted')
