#!lua flags=allow-oom
-- uses streams steps
-- Parked tasks whose agent the caller has: back onto the stream.
-- KEYS: fixed; then per item: its steps (a task: its record)
-- ARGV: uid, n; per item: kind (t | s), what it is parked as, id, step, agent, class, attempt
-- -> {'gone'} | {'ok', how many}
if is_gone(ARGV[1]) then return { 'gone' } end
local n, at = 0, 3
for i = 1, tonumber(ARGV[2]) do
  if redis.call('ZREM', PARKED_AGENT, ARGV[at + 1]) == 1 then
    local entry = put(ARGV[at + 5], 'id', ARGV[at + 2], 'agent', ARGV[at + 4], 'attempt', ARGV[at + 6])
    set_state(ARGV[at], KEYS[FIXED + i], ARGV[at + 3], 'waiting', entry)
    n = n + 1
  end
  at = at + 7
end
if n > 0 then ring() end
return { 'ok', n }
