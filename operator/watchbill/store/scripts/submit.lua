#!lua
-- uses streams tasks
-- Tasks onto the streams. At most 500 a call.
-- KEYS: fixed; then per task: task; and its dedupe key, where it has a window
-- ARGV: uid, crew, definition that the caller checked them against ('': none), maxQueued, reply channel, n; per task: id,
--   class, agent, payload, digest of the work ('': none), when it is due in ms (0: now), dedupe window ms (0: none), names
--   of inputs joined by spaces, number of inputs, then name and value of each
-- -> {'gone'} | {'changed'} (the crew has another definition) | {'full'} | {'conflict', the id of a run} | {'other', the id
--   of other work}: nothing is stored
--   | {'ok', per task: submitted | exists | duplicate:<id>}
local meta = redis.call('HMGET', META, 'uid', 'def')
if meta[1] ~= ARGV[1] then return { 'gone' } end
if ARGV[3] ~= '' and meta[2] ~= ARGV[3] then return { 'changed' } end
local waiting = queued()
local n, most, reply = tonumber(ARGV[6]), tonumber(ARGV[4]), ARGV[5]
local before = present(waiting)
local at, key = 7, FIXED + 1
if n > 1 or before + n > most then      -- all or nothing
  local ids, keys, works, dedupes, here, more = {}, {}, {}, {}, {}, 0
  for i = 1, n do
    ids[i], keys[i], works[i], dedupes[i] = ARGV[at], KEYS[key], ARGV[at + 4], tonumber(ARGV[at + 6]) > 0 and KEYS[key + 1]
    key = key + (tonumber(ARGV[at + 6]) > 0 and 2 or 1)
    at = at + 9 + 2 * tonumber(ARGV[at + 8])
  end
  for i, score in ipairs(redis.call('ZMSCORE', IDS, unpack(ids))) do
    local first = dedupes[i] and first_of(dedupes[i], ARGV[1])
    if not first or first == ids[i] and redis.call('EXISTS', keys[i]) == 1 then      -- else it was asked for before
      if not score or tonumber(score) <= now_ms then
        more = more + 1
        if is_other(here[ids[i]], works[i]) then return { 'other', ids[i] } end
        here[ids[i]] = works[i]
      elseif redis.call('EXISTS', keys[i]) == 0 then
        return { 'conflict', ids[i] }
      elseif is_other(redis.call('HGET', keys[i], 'work'), works[i]) then
        return { 'other', ids[i] }
      end
    end
  end
  if more > 0 and before + more > most then      -- those that are there already need no room
    return refuse()
  end
  at, key = 7, FIXED + 1
end
local outcome, added = { 'ok' }, 0
local sooner = false     -- delayed work is due before all that was there
local known = false
for i = 1, n do
  local id, class, agent, payload, work, due, window, inputs, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3],
    ARGV[at + 4], tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), ARGV[at + 7], tonumber(ARGV[at + 8])
  local values = {}
  for j = 1, 2 * count do values[j] = ARGV[at + 8 + j] end
  at = at + 9 + 2 * count
  local task_key, dedupe_key = KEYS[key], window > 0 and KEYS[key + 1]
  key = key + (dedupe_key and 2 or 1)
  local first = dedupe_key and first_of(dedupe_key, ARGV[1])
  if first and (first ~= id or redis.call('EXISTS', task_key) == 0) then     -- it may have expired within the window
    outcome[i + 1] = 'duplicate:' .. first
    known = true
  else
    local what, look = add_task(task_key, id, class, agent, payload, work, reply, inputs, values, due > 0 and due)
    if what == 'submitted' then
      if look then added = added + 1 end
      sooner = sooner or look and due > 0
      if dedupe_key then keep_first(dedupe_key, ARGV[1], id, window) end
    end
    if what == 'conflict' or what == 'other' then return { what, id } end      -- of one: nothing is stored yet
    outcome[i + 1] = what
    known = known or what == 'exists'
  end
end
if added > 0 then
  ring()
  if waiting == 0 or sooner then wake(ARGV[2], sooner) end
end
if known then write_again(ARGV[1]) end
return outcome
