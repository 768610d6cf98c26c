#!lua
-- uses events
-- A crew comes into being, or takes up a new definition. The old definition stays while a run refers to it.
-- KEYS: fixed; new definition, old definition (as the caller last saw it; the new one again: none)
-- ARGV: uid of a crew that is new here, uid that must be there ('' = any), hash, old hash ('' = none), definition, maxQueued,
--   who manages it ('' = nobody), what the feed tells if the crew isn't here ('' = nothing: it never was)
-- -> {'ok', uid} | {'changed'} (another definition came in between: look again) | {'other', uid, who manages it} (it is
--   another crew of that name, or another's) | {'leaving', uid} (a former one is not removed to its end)
local known = redis.call('HMGET', META, 'uid', 'owner', 'def', 'leaving')
local uid, owner, old = known[1], known[2] or '', known[3] or ''
if known[4] then return { 'leaving', known[4] } end
if uid and ARGV[2] ~= '' and uid ~= ARGV[2] then return { 'other', uid, owner } end
if uid and owner ~= '' and owner ~= ARGV[7] then return { 'other', uid, owner } end
if old ~= ARGV[4] and old ~= ARGV[3] then return { 'changed' } end
uid = uid or ARGV[1]
redis.call('SET', KEYS[FIXED + 1], ARGV[5])
redis.call('HSET', META, 'uid', uid, 'def', ARGV[3], 'maxQueued', ARGV[6])
redis.call('HSETNX', META, 'born', int(now_us))     -- what was claimed before, the store has lost
if not known[1] and ARGV[8] ~= '' then
  redis.call('HSET', META, 'lost', now)     -- so that no worker tells it again (lost.lua)
  event('mission_event', '"message":' .. quote(ARGV[8]))
end
if ARGV[7] ~= '' then redis.call('HSET', META, 'owner', ARGV[7]) end     -- with it, so that a sweep finds it
if old ~= '' and old ~= ARGV[3] and redis.call('HEXISTS', META, 'ref:' .. old) == 0 then redis.call('DEL', KEYS[FIXED + 2]) end
for _, c in ipairs(CLASSES) do
  redis.pcall('XGROUP', 'CREATE', STREAM[c], GROUP, '0')    -- an error says that it, or the stream, is not or already there
end
return { 'ok', uid }
