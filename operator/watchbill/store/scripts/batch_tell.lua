#!lua flags=allow-oom
-- uses streams steps wake items resumes limits batches
-- Tells tasks that their requests were sent, or answered, or that these are to be made at once. A task that has what it
-- waited for is due.
-- KEYS fixed, then
--   1 lane
--   2 requests
--   3 sender
--   then for each request the keys of its task (lib_items.lua)
-- ARGV
--   1 uid
--   2 crew
--   3 who                 sends
--   4 ...                 requests, each with
--     id                  of its task
--     what                sent | answered | left
--     text                the reason why it waits; the answer
-- Answers
--   {'gone'}
--   {'lost'}              another one sends by now
--   {'ok', ...}           for each ok | over (nobody waits for it) | held (its task runs, and is to be set aside;
--                         nothing was written)
local lane, requests, sender = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3]
local uid, crew, who = ARGV[1], ARGV[2], ARGV[3]
if is_gone(uid) then return { 'gone' } end
if redis.call('GET', sender) ~= who then return { 'lost' } end
next_key = FIXED + 4

-- Makes a task due that is set aside.
local function make_due(item)
  local found = find_aside(item)
  if not found or found.state ~= 'delayed' then return false end
  local member = pack_member(item.id, found.class, found.agent, int(tonumber(found.attempt) + 1))
  if not redis.call('ZSCORE', DELAYED, member) then return false end
  redis.call('ZADD', DELAYED, 'XX', now, member)
  return true
end

local function tell(item, request, what, text)
  local id, _, _, _, place = string.match(redis.call('HGET', requests, request) or '', REQUEST)
  if not place then return 'over' end
  local till = awaits(item, request)
  if not till then
    if what ~= 'sent' then forget(lane, requests, request, place) end
    return 'over'
  end
  local key, field = batch_place(item)
  if what == 'sent' then
    local waits = item.run_id and 'waits:' .. item.name or 'waits'
    local due = string.match(redis.call('HGET', key, waits) or '', '^(%d+)\31')
    if due == till then redis.call('HSET', key, waits, due .. FS .. text) end
    return 'ok'
  end
  if has_begun(id) then return 'held' end
  local _, own, rest = string.match(redis.call('HGET', key, field), OWN)
  redis.call('HSET', key, field, what .. FS .. own .. FS .. rest)
  if what == 'answered' then redis.call('HSET', key, (string.gsub(field, '^batch', 'batched')), text) end
  forget(lane, requests, request, place)
  return 'ok', make_due(item)
end

local answer, is_due = { 'ok' }, false
for i = 4, #ARGV, 4 do
  local request, id, what, text = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local said, due = tell(next_item(id), request, what, text)
  answer[#answer + 1], is_due = said, is_due or due
end
if is_due then
  ring()
  wake(crew, true)
end
return answer
