-- needs prelude
-- A member has stored a partial that holds these updates beside all it reported before.
-- The same call again gives the same answer: the pointer names the partial, which is new each time.
-- KEYS 1 round, 2 claims, 3 reports, 4 partials, 5 fenced, 6 evaluations.
-- ARGV 1 ref, 2 instant or '', 3 how long the keys outlast the round in ms, 4 member, 5 pointer,
-- 6 events channel, 7 pointer of the partial this goes on from ('' none, * any),
-- 8 how many vectors of evaluation data to keep, then triples: device, record, vector or ''.
-- A list: accepted | enough | late | unclaimed | fenced | moved_on; after accepted one position
-- per device.
local round, count = read(KEYS[1]), (#ARGV - 8) / 3
local member, pointer = ARGV[4], ARGV[5]
if round.ref ~= ARGV[1] then return { word('moved_on') } end
if redis.call('ZSCORE', KEYS[5], member) then return { word('fenced') } end
local reply = { word('accepted') }
if redis.call('HGET', KEYS[4], member) == pointer then
  for i = 1, count do
    local record = redis.call('HGET', KEYS[3], ARGV[6 + 3 * i])
    reply[i + 1] = tonumber(string.match(record, '^%d+'))
  end
  return reply
end
if not collecting(round) then return { word('enough') } end
local now = clock(ARGV[2])
if overdue(round, now) then return { word('late') } end
for i = 1, count do
  local claim = redis.call('HGET', KEYS[2], ARGV[6 + 3 * i])
  if holder(claim) ~= member then return { word('unclaimed') } end
end
local known = redis.call('HGET', KEYS[4], member) or ''
if ARGV[7] ~= '*' and known ~= ARGV[7] then return { word('unclaimed') } end
local position = redis.call('HLEN', KEYS[3])
for i = 1, count do
  local device, vector = ARGV[6 + 3 * i], ARGV[8 + 3 * i]
  position, reply[i + 1] = position + 1, position + 1
  redis.call('HDEL', KEYS[2], device)
  redis.call('HSET', KEYS[3], device, position .. ' ' .. now .. ' ' .. ARGV[7 + 3 * i])
  if vector ~= '' then redis.call('LPUSH', KEYS[6], vector) end
end
redis.call('LTRIM', KEYS[6], 0, ARGV[8] - 1) -- 0, -1 is all of it
redis.call('HSET', KEYS[4], member, pointer)
if round.first_report_at == '' then redis.call('HSET', KEYS[1], 'first_report_at', now) end
for _, i in ipairs({ 3, 4, 6 }) do
  redis.call('PEXPIRE', KEYS[i], ARGV[3] + round.round_window_ms)
end
if position >= tonumber(round.report_goal) then collected(KEYS[1], round, now, ARGV[6]) end
return reply
