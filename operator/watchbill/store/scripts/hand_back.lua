#!lua flags=allow-oom
-- uses events running steps
-- Claimed tasks return, in order and with their attempts unchanged: their entries move to a consumer that everyone may
-- take from, so they keep their place in the stream.
-- KEYS: fixed; then per item: agent events; its record (a step: its run's steps); run events (a task: agent events again)
-- ARGV: uid, incarnation, n; per item: kind (t | s), id, fence, step
-- -> {'gone'} | {'fenced'} | {'ok', per item: applied | stale}
local bar = barred(ARGV[1], ARGV[2])
if bar then return { bar } end
local inc, outcome, at, key = ARGV[2], { 'ok' }, 4, FIXED + 1
for _ = 1, tonumber(ARGV[3]) do
  local kind, id, fence, name = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local agent_events, record = KEYS[key], KEYS[key + 1]
  at, key = at + 4, key + 3
  local h = holder(id)
  if holds(h, inc, fence) then
    if h.known ~= '0' then count(h.agent, -1, agent_events) end
    if set_state(kind, record, name, wish_of(id) == 'cancel' and 'cancelling' or 'waiting') then
      give_back(id, h)
      outcome[#outcome + 1] = 'applied'
    else
      drop_stray(id, h)
      outcome[#outcome + 1] = 'stale'
    end
  else
    outcome[#outcome + 1] = h and h.inc == RETURNED and h.fence == fence and 'applied' or 'stale'
  end
end
settle()
return outcome
