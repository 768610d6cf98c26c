#!lua flags=allow-oom
-- uses events running steps
-- Claimed tasks whose agent this worker's image doesn't have: off the stream, until a worker comes that has it.
-- KEYS: fixed; then per item: agent events; its record (a step: its run's steps); run events (a task: agent events again)
-- ARGV: uid, incarnation, reason, n; per item: kind (t | s), id, fence, step, what it is parked as
-- -> {'gone'} | {'fenced'} | {'ok', per item: applied | repeated | stale}
local bar = barred(ARGV[1], ARGV[2])
if bar then return { bar } end
local outcome, at, key = { 'ok' }, 5, FIXED + 1
for _ = 1, tonumber(ARGV[4]) do
  local kind, id, fence, name, member = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local agent_events, record = KEYS[key], KEYS[key + 1]
  at, key = at + 5, key + 3
  local h = holder(id)
  if holds(h, ARGV[2], fence) then
    if h.known ~= '0' then count(h.agent, -1, agent_events) end
    local wish, told = wish_of(id), 'applied'
    if wish and set_state(kind, record, name, wish == 'cancel' and 'cancelling' or 'waiting') then
      give_back(id, h)       -- whoever takes it next says how it ended
    elseif wish or not set_state(kind, record, name, 'parked', nil, int(tonumber(h.attempt) - 1)) then
      drop_stray(id, h)
      told = 'stale'
    else
      release(id, h)
      redis.call('ZADD', PARKED_AGENT, now_ms, member)
      event('mission_event', about(h.agent, id, string.match(id, '^([^/]+)/'), ARGV[3]), agent_events,
        kind == 's' and KEYS[key - 1] or nil)
    end
    outcome[#outcome + 1] = told
  else
    local returned = h and h.inc == RETURNED and h.fence == fence
    outcome[#outcome + 1] = (returned or not h and redis.call('ZSCORE', PARKED_AGENT, member)) and 'repeated' or 'stale'
  end
end
settle()
return outcome
