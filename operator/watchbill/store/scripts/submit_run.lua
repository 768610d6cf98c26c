#!lua
-- uses events answers streams tasks steps runs new_runs
-- A run and up to 500 of its steps. A larger run comes in several calls; the last one starts it.
-- KEYS: fixed; run, steps, task (a task of that id is a conflict), run events, dedupe (or task again: none), definition
-- ARGV: uid, crew, maxQueued, id, class, payload, definition, digest of the work, mode, parallel, reply channel, dedupe
--   window ms, last call?, steps of the whole run, inputs joined, number of inputs, name and value of each, number of
--   steps here, then per step: name, agent, index, number of dependencies, successors joined by LS
-- -> {'gone'} | {'full'} | {'changed'} (the crew has another definition) | {'ok', submitted | exists | conflict | other
--   | torn (the store went back in time, and has lost steps of a call before: begin anew) | duplicate:<id>}
if is_gone(ARGV[1]) then return { 'gone' } end
local run_key, steps_key, task_key, run_events, dedupe_key = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3],
  KEYS[FIXED + 4], KEYS[FIXED + 5]
local id, class, window = ARGV[4], ARGV[5], tonumber(ARGV[12])
local waiting = queued()
local before = tonumber(ARGV[20 + 2 * tonumber(ARGV[16])] or 0)      -- steps of the calls before: the first one's index
if redis.call('HLEN', steps_key) < before then return { 'ok', 'torn' } end
if redis.call('EXISTS', run_key) == 0 then
  local first = window > 0 and first_of(dedupe_key, ARGV[1])
  if first then
    write_again(ARGV[1])
    return { 'ok', 'duplicate:' .. first }
  end
  if redis.call('HGET', META, 'def') ~= ARGV[7] then return { 'changed' } end
  if present(waiting) + tonumber(ARGV[14]) > tonumber(ARGV[3]) then return refuse() end
end
local inputs, count, values = ARGV[15], tonumber(ARGV[16]), {}
local at = 17
for j = 1, 2 * count do values[j] = ARGV[at + j - 1] end
at = at + 2 * count
local runs = new_runs_part()
local what = runs.add_run(run_key, task_key, id, class, ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11],
  inputs, values)
if what == 'exists' or what == 'creating' then write_again(ARGV[1]) end
if what ~= 'submitted' and what ~= 'creating' then return { 'ok', what } end
if what == 'submitted' and window > 0 then keep_first(dedupe_key, ARGV[1], id, window) end
local steps = tonumber(ARGV[at])
at = at + 1
for _ = 1, steps do
  runs.add_step(run_key, steps_key, id, ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4])
  at = at + 5
end
if ARGV[13] == '1' then
  runs.start_run(run_key, steps_key, run_events, id)
  ring()
  if waiting == 0 then wake(ARGV[2]) end
end
return { 'ok', 'submitted' }
