#!lua flags=allow-oom
-- uses events holders steps limits releases items
-- Claimed tasks return, in order and with their attempts unchanged: their entries move to a consumer that everyone may
-- take from, so they keep their place in the stream.
-- KEYS fixed, then for each item its own (lib_items.lua)
-- ARGV
--   1 uid
--   2 inc
--   3 n                   items, each with
--     id
--     fence
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   {'ok', ...}           for each item: applied | stale
local uid, inc, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local bar = barred(uid, inc)
if bar then return { bar } end
local outcomes = { 'ok' }
for i = 1, n do
  local at = 2 + 2 * i
  local id, fence = ARGV[at], ARGV[at + 1]
  local item, h = next_item(id), holder(id)
  local outcome = 'stale'
  if holds(h, inc, fence) then
    if h.known ~= '0' then count(h.agent, -1, item.agent_events) end
    if set_state(item, wish_of(id) == 'cancel' and 'cancelling' or 'waiting') then
      give_back(id, h)
      outcome = 'applied'
    else
      drop_stray(id, h)
    end
  elseif h and h.inc == RETURNED and h.fence == fence then
    outcome = 'applied'
  end
  outcomes[i + 1] = outcome
end
settle()
return outcomes
