-- needs prelude
-- A device of a masked round takes a step.
-- KEYS 1 round, 2 the step's messages, 3 who may take it: cohort, reports or an earlier step's.
-- ARGV 1 ref, 2 instant or '', 3 how long the keys outlast the round in ms, 4 events channel,
-- 5 name of the call (12 bytes), 6 step, 7 '1' when it comes after all updates,
-- 8 step that has to be complete or '', 9 device, 10 message,
-- 11 the device's message that this one takes the place of, if any.
-- accepted | enough | too_early | unprepared | duplicate | late | moved_on.
local round, step, device = read(KEYS[1]), ARGV[6], ARGV[9]
local known = redis.call('HGET', KEYS[2], device)
if known and string.sub(known, 1, #ARGV[5]) == ARGV[5] then return word('accepted') end
if round.ref ~= ARGV[1] then return word('moved_on') end
if not masked(round) then return word('enough') end
local is_after = ARGV[7] == '1'
if round.phase == 'waiting' then return word(is_after and 'too_early' or 'unprepared') end
if is_after and collecting(round) then return word('too_early') end
if not (is_after and round.phase == 'unmasking' or not is_after and collecting(round)) then
  return word('enough')
end
local now = clock(ARGV[2])
if overdue(round, now) then return word('late') end
if known then
  if not ARGV[11] then return word('duplicate') end
  if completed(round, step) then return word('enough') end
  if string.sub(known, #ARGV[5] + 1) ~= ARGV[11] then return word('duplicate') end
  redis.call('HSET', KEYS[2], device, ARGV[5] .. ARGV[10])
  return word('accepted')
end
if ARGV[8] ~= '' and not completed(round, ARGV[8]) then return word('too_early') end
if redis.call('HEXISTS', KEYS[3], device) == 0 then return word('unprepared') end
local goal, count = goal_of(round, step), redis.call('HLEN', KEYS[2])
if goal and count >= goal then return word('enough') end
redis.call('HSET', KEYS[2], device, ARGV[5] .. ARGV[10])
redis.call('PEXPIRE', KEYS[2], ARGV[3] + round.round_window_ms)
if step == 'list_read' and count == 0 then
  redis.call('HSET', KEYS[1], 'list_read_began', '', 'signatures_began', now, 'reveals_began', now)
end
if not goal then return word('accepted') end
if (round[step .. '_began'] or '') == '' then redis.call('HSET', KEYS[1], step .. '_began', now) end
if count + 1 < goal then return word('accepted') end
redis.call('HSET', KEYS[1], 'complete', (round.complete or '') .. step .. ' ')
if step == 'reveals' then
  redis.call('HSET', KEYS[1], 'phase', 'aggregating', 'since', now)
end
redis.call('PUBLISH', ARGV[4], step == 'reveals' and 'aggregating' or step)
return word('accepted')
