#!lua flags=allow-oom
-- uses events streams steps states wake items resumes approvals
-- Somebody approves of what a task or step waits for, or rejects it: it goes back onto its stream, and its worker reads
-- which of the two. What is interrupted meanwhile stays so until it is resumed.
-- KEYS fixed, then those of the item (lib_items.lua)
-- ARGV
--   1 uid
--   2 crew
--   3 id
--   4 verdict             approved | rejected
--   5 why
--   6 what                of its approvals
--   7 since               when that was asked for which the caller has seen, in ms; '': any
-- Answers
--   {'gone'}
--   {'ok', ...}           approved | rejected | repeated (it is that already) | other (it is decided otherwise)
--                         | late (its time is over) | none (it waits for no such approval) | anew (it has asked since)
--                         | missing | over:<state>
local uid, crew, id, verdict, why, what, since = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if is_gone(uid) then return { 'gone' } end
local item = next_item(id)
local found = find_aside(item)
if not found then return { 'ok', 'missing' } end
local all, meant = approvals().read(item), nil
for _, one in ipairs(all) do
  if one.what == what then meant = one end
end
if meant and since ~= '' and meant.since ~= since then return { 'ok', 'anew' } end
if meant and meant.state == verdict then return { 'ok', 'repeated' } end
if ENDED[found.state] then return { 'ok', 'over:' .. found.state } end
if not meant then return { 'ok', 'none' } end
if meant.state ~= 'waiting' then return { 'ok', 'other' } end
if tonumber(meant.till) <= now_ms then return { 'ok', 'late' } end
meant.state, meant.decided, meant.why = verdict, now, why
approvals().write(item, all)
item_event(item, 'agent_resumed', found.agent, verdict .. (why == '' and '' or ': ' .. why))
local member = pack_member(id, found.class, found.agent, int(tonumber(found.attempt) + 1))
if redis.call('ZREM', DELAYED, member) == 1 then
  put_back(item, found, crew)
else
  redis.call('ZADD', PARKED_INTERRUPT, 'XX', 0, id)
end
return { 'ok', verdict }
