#!lua flags=allow-oom
-- uses steps items limits batches
-- Requests that were gathered go into a batch, which is about to be sent. Those that nobody waits for any more go.
-- KEYS fixed, then
--   1 lane
--   2 requests
--   3 sender
--   then for each request the keys of its task (lib_items.lua)
-- ARGV
--   1 uid
--   2 who                 sends
--   3 batch
--   4 ...                 requests, each with the id of its task
-- Answers
--   {'gone'}
--   {'lost'}              another one sends by now
--   {'ok', ...}           for each sealed | over (nobody waits for it) | held (its task has yet to be set aside)
local lane, requests, sender = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3]
local uid, who, batch = ARGV[1], ARGV[2], ARGV[3]
if is_gone(uid) then return { 'gone' } end
if redis.call('GET', sender) ~= who then return { 'lost' } end
next_key = FIXED + 4
local answer = { 'ok' }
for i = 4, #ARGV, 2 do
  local request, item = ARGV[i], next_item(ARGV[i + 1])
  local id, agent, call, size, place = string.match(redis.call('HGET', requests, request) or '', REQUEST)
  local said = 'over'
  if place and not awaits(item, request) then
    forget(lane, requests, request, place)
  elseif place and has_begun(id) then
    said = 'held'
  elseif place then
    said = 'sealed'
    redis.call('ZREM', lane, place .. ':' .. request)
    redis.call('ZADD', lane, 0, 'b:' .. batch .. ':' .. request)
    redis.call('HSET', requests, request, id .. FS .. agent .. FS .. call .. FS .. size .. FS .. 'b:' .. batch)
  end
  answer[#answer + 1] = said
end
return answer
