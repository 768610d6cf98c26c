#!lua
-- Tasks onto the streams. At most 500 a call.
-- KEYS: fixed; then per task: task, run (a run of that id is a conflict), dedupe (or task again: none)
-- ARGV: uid, crew, maxQueued, n; per task: id, class, agent, payload, reply channel, dedupe window ms (0: none),
--   names of inputs joined by spaces, number of inputs, then name and value of each
-- -> {'gone'} | {'full'} | {'ok', per task: submitted | exists | conflict | duplicate:<id>}
if is_gone(ARGV[1]) then return { 'gone' } end
local waiting = queued()
local n = tonumber(ARGV[4])
local present = waiting + redis.call('ZCARD', PARKED) + redis.call('ZCARD', PARKED_AGENT)
if present + n > tonumber(ARGV[3]) then
  local more = 0    -- those that are there already need no room
  for i = 1, n do more = more + 1 - redis.call('EXISTS', KEYS[FIXED + i * 3 - 2]) end
  if more > 0 and present + more > tonumber(ARGV[3]) then return { 'full' } end
end
local outcome, at, added = { 'ok' }, 5, 0
for i = 1, n do
  local key = FIXED + (i - 1) * 3
  local task_key, run_key, dedupe_key = KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
  local id, class, agent, payload, reply, window = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4],
    tonumber(ARGV[at + 5])
  local inputs, count, values = ARGV[at + 6], tonumber(ARGV[at + 7]), {}
  at = at + 8
  for j = 1, count do values[ARGV[at + 2 * j - 2]] = ARGV[at + 2 * j - 1] end
  at = at + 2 * count
  local first = window > 0 and redis.call('GET', dedupe_key)
  if first and first ~= id then
    outcome[#outcome + 1] = 'duplicate:' .. first
  else
    local what = add_task(task_key, run_key, id, class, agent, payload, reply, inputs, values)
    if what == 'submitted' then
      added = added + 1
      if window > 0 then redis.call('SET', dedupe_key, id, 'PX', window) end
    end
    outcome[#outcome + 1] = what
  end
end
if added > 0 then
  ring()
  if waiting == 0 then wake(ARGV[2]) end
end
return outcome
