-- needs prelude
-- A member asks whether to add updates that it holds and found fit.
-- KEYS 1 round, 2 cohort, 3 claims, 4 reports, 5 fenced, 6 keys read, 7 shares read.
-- ARGV 1 ref, 2 instant or '', 3 how long the keys outlast the round in ms, 4 member,
-- 5 name of the call, then pairs: device, its round number.
-- Two entries per device: a word, and the data size it declared (0 unless accepted).
-- accepted | enough | not_in_cohort | stale_round | unprepared | duplicate | pending | late |
-- fenced | moved_on.
local round, count = read(KEYS[1]), (#ARGV - 5) / 2
if round.ref ~= ARGV[1] then return all_with_zero('moved_on', count) end
if redis.call('ZSCORE', KEYS[5], ARGV[4]) then return all_with_zero('fenced', count) end
local reply, late = {}, collecting(round) and overdue(round, clock(ARGV[2]))
local taken = redis.call('HLEN', KEYS[3]) + redis.call('HLEN', KEYS[4])
local function prepared(device)
  if not masked(round) then return true end
  if goal_of(round, 'shares') == 0 then return redis.call('HEXISTS', KEYS[6], device) == 1 end
  return redis.call('HEXISTS', KEYS[7], device) == 1
end
for i = 1, count do
  local device, number, call = ARGV[4 + 2 * i], tonumber(ARGV[5 + 2 * i]), ARGV[5] .. '.' .. i
  local claim, answer, size = redis.call('HGET', KEYS[3], device), nil, 0
  if round.served == '0' and number == round.number - 1 then
    answer = 'enough'
  elseif round.phase == 'waiting' then
    answer = 'not_in_cohort'
  elseif not collecting(round) then
    answer = 'enough'
  elseif late then
    answer = 'late'
  elseif redis.call('HEXISTS', KEYS[2], device) == 0 then
    answer = 'not_in_cohort'
  elseif number ~= tonumber(round.number) then
    answer = 'stale_round'
  elseif not prepared(device) then
    answer = 'unprepared'
  elseif redis.call('HEXISTS', KEYS[4], device) == 1 then
    answer = 'duplicate'
  elseif claim and not written_by(claim, call) then
    answer = 'pending'
  elseif not claim and taken >= tonumber(round.report_goal) then
    answer = 'pending'
  else
    answer = 'accepted'
    taken = taken + redis.call('HSET', KEYS[3], device, ARGV[4] .. ' ' .. call)
    redis.call('PEXPIRE', KEYS[3], ARGV[3] + round.round_window_ms)
    size = tonumber(string.match(redis.call('HGET', KEYS[2], device), '^%d+'))
  end
  reply[2 * i - 1], reply[2 * i] = word(answer), size
end
return reply
