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

-- Whether members alone can bring the round to its end.
local function finishable(round)
  return ending(round) and not (round.phase == 'aggregating' and hybrid(round))
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
