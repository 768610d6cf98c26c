#!lua
-- uses streams tasks wake
-- Adds tasks, at most 500 a call.
-- KEYS fixed, then for each task
--   task
--   dedupe                where it has a window
-- ARGV
--   1 uid
--   2 crew
--   3 definition          that the caller checked the tasks against; '': none
--   4 max_queued
--   5 reply               channel of a client that waits; '': none
--   6 n                   tasks, each with
--     id
--     class
--     agent
--     payload
--     work                digest of what is to be done; '': none
--     due                 when it may begin, in ms; 0: now
--     window              of its dedupe key, in ms; 0: it has none
--     deliver             its destinations (lib_outbox.lua); '': none
--     inputs              their names, joined by spaces
--     n_inputs            how many they are, then name and value of each
-- Answers, of which only the last says that anything is stored
--   {'gone'}
--   {'held', why}         there is no room for the crew
--   {'closed', why}       somebody has closed it
--   {'changed'}           the crew has another definition
--   {'full'}
--   {'conflict', id}      it is the id of a run
--   {'other', id}         it is the id of other work
--   {'ok', ...}           for each task: submitted | exists | duplicate:<id>
local uid, crew, definition, max_queued, reply = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local n = tonumber(ARGV[6])
local meta = redis.call('HMGET', META, 'uid', 'def', 'closed', 'limits')
if meta[1] ~= uid then return { 'gone' } end
heed(meta[4])
if meta[3] then     -- by close.lua, admit.lua or suspend.lua
  local closing = redis.call('HGET', META, 'closing')
  return { tonumber(meta[3]) and 'gone' or closing == meta[3] and 'closed' or 'held', meta[3] }
end
if definition ~= '' and meta[2] ~= definition then return { 'changed' } end
local waiting = queued()
local before = present(waiting)

-- Why nothing of a call of several, or of one for which there may be no room, is stored; nil where it all can be.
local function refused()
  local ids, tasks, works, dedupes, here, more = {}, {}, {}, {}, {}, 0
  local at, key = 7, FIXED + 1
  for i = 1, n do
    local id, work, window, n_inputs = ARGV[at], ARGV[at + 4], tonumber(ARGV[at + 6]), tonumber(ARGV[at + 9])
    local task, dedupe = KEYS[key], window > 0 and KEYS[key + 1]
    ids[i], tasks[i], works[i], dedupes[i] = id, task, work, dedupe
    at, key = at + 10 + 2 * n_inputs, key + (dedupe and 2 or 1)
  end
  for i, score in ipairs(redis.call('ZMSCORE', IDS, unpack(ids))) do
    local first = dedupes[i] and first_of(dedupes[i], uid)
    if not first or first == ids[i] and redis.call('EXISTS', tasks[i]) == 1 then      -- else it was asked for before
      if not score or tonumber(score) <= now_ms then
        more = more + 1
        if is_other(here[ids[i]], works[i]) then return { 'other', ids[i] } end
        here[ids[i]] = works[i]
      elseif redis.call('EXISTS', tasks[i]) == 0 then
        return { 'conflict', ids[i] }
      elseif is_other(redis.call('HGET', tasks[i], 'work'), works[i]) then
        return { 'other', ids[i] }
      end
    end
  end
  if more > 0 and before + more > max_queued then return refuse() end     -- what is there already needs no room
end

if n > 1 or before + n > max_queued then
  local why = refused()
  if why then return why end
end
local answer, added = { 'ok' }, 0
local sooner = false     -- delayed work is due before all that was there
local known = false      -- something is there already
local at, key = 7, FIXED + 1
for i = 1, n do
  local id, due, window, n_inputs = ARGV[at], tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 9])
  local task, dedupe = KEYS[key], window > 0 and KEYS[key + 1]
  local first = dedupe and first_of(dedupe, uid)
  if first and (first ~= id or redis.call('EXISTS', task) == 0) then     -- it may have expired within the window
    answer[i + 1] = 'duplicate:' .. first
    known = true
  else
    local what, is_next = add_task(task, at, reply)
    if what == 'submitted' then
      if is_next then added = added + 1 end
      sooner = sooner or is_next and due > 0
      if dedupe then set_dedupe(dedupe, uid, id, window) end
    end
    if what == 'conflict' or what == 'other' then return { what, id } end      -- of one: nothing is stored yet
    answer[i + 1] = what
    known = known or what == 'exists'
  end
  at, key = at + 10 + 2 * n_inputs, key + (dedupe and 2 or 1)
end
if added > 0 then
  ring()
  wake(crew, sooner, waiting)
end
if known then write_again(uid) end
return answer
