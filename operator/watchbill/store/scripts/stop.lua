#!lua flags=allow-oom
-- uses events running answers streams tasks steps runs ends states results stops
-- Tasks and steps are cancelled, or interrupted until somebody resumes them. What a worker holds is asked to stop, if its
-- lease runs; what waits is taken from where it waits, and what a dead worker left from there. At most 500 a call.
-- KEYS: fixed; then per task: task, agent events; per step: run, steps, results, definition, agent events, run events
-- ARGV: uid, crew, cancel | interrupt, why, control channel, n; per item: id, ttl ms
-- -> {'gone'} | {'ok', per item: cancelled | interrupted | asked (its worker) | repeated | missing
--   | over:<state> (it has ended) | busy (it can't be done now: try again) | unready (a step that waits for others)}
if is_gone(ARGV[1]) then return { 'gone' } end
local outcomes, at, key = { 'ok' }, 7, FIXED + 1
for _ = 1, tonumber(ARGV[6]) do
  local id, ttl, k = ARGV[at], ARGV[at + 1], nil
  at = at + 2
  if string.find(id, '^[^/]+/') then
    k = { run = KEYS[key], steps = KEYS[key + 1], results = KEYS[key + 2], def = KEYS[key + 3],
      agent_events = KEYS[key + 4], run_events = KEYS[key + 5] }
    key = key + 6
  else
    k = { task = KEYS[key], agent_events = KEYS[key + 1] }
    key = key + 2
  end
  outcomes[#outcomes + 1] = stop(ARGV[3], ARGV[4], id, ttl, k)
end
settle_stops(ARGV[2], ARGV[5], ARGV[3], ARGV[8])      -- one crew's, so one time for all
return outcomes
