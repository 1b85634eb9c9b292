-- What the scripts of the round share; put before each script that asks for it.
-- Time comes from the caller in tests and from Redis otherwise, so that members whose clocks
-- disagree still agree on every deadline.
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- The round's hash as a table; numbers are still strings.
local function read(key)
  local flat = redis.call('HGETALL', key)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

local function collecting(round)
  return round.phase == 'selecting' or round.phase == 'reporting'
end

local function ending(round)
  return round.phase == 'aggregating' or round.phase == 'concluding' or round.phase == 'abandoning'
end

-- Whether the mean is for a worker to retrain.
local function hybrid(round) return round.is_hybrid == '1' end

-- Whether devices exchange messages to mask what they upload.  `exchange` holds how many
-- devices each step waits for, and how long, as `name=number` words.
local function masked(round) return (round.exchange or '') ~= '' end

-- How many devices complete a step; nil for one that never is.
local function goal_of(round, step)
  return tonumber(string.match(round.exchange, '%f[%w]' .. step .. '=(%d+)'))
end

-- Whether a step waits for nobody any more, or never did.
local function completed(round, step)
  if goal_of(round, step) == 0 then return true end
  return string.find(' ' .. (round.complete or ''), ' ' .. step .. ' ', 1, true) ~= nil
end

-- Whether a step of a masked round has waited too long.
local function stalled(round, now)
  if not masked(round) then return false end
  for _, step in ipairs({ 'keys', 'shares', 'signatures', 'reveals', 'list_read' }) do
    local began = round[step .. '_began'] or ''
    local waits = began ~= '' and not completed(round, step)
    if waits and now >= began + goal_of(round, 'window_ms') then return true end
  end
  return false
end

-- Whether members alone can bring the round to its end.
local function finishable(round)
  return ending(round) and not (round.phase == 'aggregating' and hybrid(round))
end

-- Whether the round has no mean yet.
local function unaggregated(round)
  return round.phase == 'waiting' or collecting(round) or round.phase == 'unmasking'
    or round.phase == 'aggregating'
end

-- Why the round has run out of time, or nil.  The instant of a deadline is already too late.
local function overdue(round, now)
  if round.phase == 'selecting' and now >= round.opened_at + round.select_window_ms then
    return 'select_window'
  end
  local reported_at = collecting(round) and round.first_report_at or ''
  if reported_at ~= '' and now >= reported_at + round.report_window_ms then
    return 'report_window'
  end
  if (collecting(round) or round.phase == 'unmasking') and stalled(round, now) then
    return 'exchange_window'
  end
  if now >= round.opened_at + round.round_window_ms then return 'round_window' end
  return nil
end

-- Some calls have a name, which they leave at the end of what they write: the same call, sent
-- again because its answer was lost, knows its own work by it.
local function written_by(text, call)
  return text and string.match(text, '%S+$') == call
end

-- The member that holds a claim, or nil.
local function holder(claim)
  return claim and string.match(claim, '^(.*) %S+$')
end

-- The round is to end without a new model.
local function give_up(key, reason, now)
  redis.call('HSET', key, 'phase', 'abandoning', 'reason', reason, 'since', now,
    'lease_member', '', 'lease_until', '')
end

-- Whether the round is the current one.
local function is_current(key, ref) return redis.call('HGET', key, 'ref') == ref end

local function word(text) return redis.status_reply(text) end

-- The same word for each of `count` questions.
local function all(text, count)
  local words = {}
  for i = 1, count do words[i] = word(text) end
  return words
end

-- The same word for each of `count` questions, and 0 beside it.
local function all_with_zero(text, count)
  local reply = {}
  for i = 1, count do reply[2 * i - 1], reply[2 * i] = word(text), 0 end
  return reply
end

-- As many updates are counted as the round wants.
local function collected(key, round, now, channel)
  local next_phase = 'aggregating'
  if masked(round) and goal_of(round, 'reveals') > 0 then next_phase = 'unmasking' end
  local is_over = next_phase == 'aggregating'
  redis.call('HSET', key, 'phase', next_phase, 'since', is_over and now or '',
    'list_read_began', is_over and '' or now)
  redis.call('PUBLISH', channel, next_phase)
end
