#!lua flags=allow-oom
-- uses events holders streams leases letters limits gate claims releases
-- In a suspended crew no claim takes over what dead incarnations hold: it waits again, and nobody counts it as running.
-- An attempt that had begun counts. At most 500 tasks a call.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 ...                 incarnations
-- Answers
--   {'gone'}
--   {'ok', returned}      the number of tasks
local uid, returned = ARGV[1], 0
if is_gone(uid) then return { 'gone' } end
if redis.call('HEXISTS', META, 'suspended') == 0 then return { 'ok', 0 } end
local held = redis.call('HGETALL', HOLDERS)
for i = 2, #ARGV do
  local inc = ARGV[i]
  local until_ms = redis.call('ZSCORE', LEASES, inc)
  if inc ~= RETURNED and until_ms and tonumber(until_ms) <= now_ms then
    if others().fence(inc) then vanished(inc) end
    for j = 1, #held, 2 do
      if returned < 500 and string.sub(held[j + 1], 1, #inc + 1) == inc .. FS then
        local h = unpack_holder(held[j + 1])
        if h.started ~= '0' then h.attempt = int(tonumber(h.attempt) + 1) end
        if h.known ~= '0' then count(h.agent, -1) end
        give_back(held[j], h)
        returned = returned + 1
      end
    end
    others().remove_if_empty(inc)
  end
end
settle()
return { 'ok', returned }
