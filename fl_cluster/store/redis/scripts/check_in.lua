-- needs prelude
-- Devices offer to take part in the round.
-- KEYS 1 round, 2 cohort.
-- ARGV 1 ref, 2 instant or '', 3 how long the keys outlast the round in ms, 4 events channel,
-- 5 name of the call, then pairs: device, declaration.
-- One word per device: accepted | cohort_full | already_checked_in | late |
-- job_disabled | moved_on.
local round, count = read(KEYS[1]), (#ARGV - 5) / 2
if round.ref ~= ARGV[1] then return all('moved_on', count) end
if round.is_disabled == '1' then return all('job_disabled', count) end
if round.phase ~= 'waiting' and not collecting(round) then return all('cohort_full', count) end
local now = clock(ARGV[2])
if round.phase == 'waiting' then
  round.phase, round.opened_at = 'selecting', now
  redis.call('HSET', KEYS[1], 'phase', 'selecting', 'opened_at', now)
  redis.call('PUBLISH', ARGV[4], 'selecting')
elseif overdue(round, now) then
  return all('late', count)
end
local size, words = redis.call('HLEN', KEYS[2]), {}
for i = 1, count do
  local device, declaration, call = ARGV[4 + 2 * i], ARGV[5 + 2 * i], ARGV[5] .. '.' .. i
  local known = redis.call('HGET', KEYS[2], device)
  if written_by(known, call) then
    words[i] = word('accepted')
  elseif known then
    words[i] = word('already_checked_in')
  elseif size >= tonumber(round.cohort_size) then
    words[i] = word('cohort_full')
  else
    redis.call('HSET', KEYS[2], device, declaration .. ' ' .. now .. ' ' .. call)
    size, words[i] = size + 1, word('accepted')
    if size == 1 then redis.call('PEXPIRE', KEYS[2], ARGV[3] + round.round_window_ms) end
  end
end
if round.phase == 'selecting' and size == tonumber(round.cohort_size) then
  redis.call('HSET', KEYS[1], 'phase', 'reporting')
  redis.call('PUBLISH', ARGV[4], 'reporting')
end
return words
