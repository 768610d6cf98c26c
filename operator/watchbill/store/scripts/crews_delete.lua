-- Deletes crews with all that points at them: each one whole, and only if its record is still the one that was read.
-- A crew read as missing only leaves the index. A record that is no string is another program's, and is left alone.
-- KEYS
--   1 index
--   2 answer_key
--   3 ...                 for each crew: its record, its id's entry (the record again where the id is unknown)
-- ARGV
--   1 seconds             for which the answer is kept
--   2 ...                 for each crew: its name, its record as read ('' for none)
-- Answers one letter per crew, in order: d deleted, m missing, c changed since it was read, f foreign
local index, answer_key, seconds = KEYS[1], KEYS[2], ARGV[1]
local answered = redis.call('GET', answer_key)
if answered then
  return answered -- our first send was applied and its reply was lost
end
redis.call('SISMEMBER', index, '') -- fails here, before any write, if another program's key is in the way
-- The string at a key, or nil, and whether the key is of another type.
local function string_at(key)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'string' then return nil, kind ~= 'none' end
  return redis.call('GET', key), false
end

local letters, points = {}, {}
for i = 1, (#KEYS - 2) / 2 do
  local record, entry, name, read = KEYS[2 * i + 1], KEYS[2 * i + 2], ARGV[2 * i], ARGV[2 * i + 1]
  local found, is_foreign = string_at(record)
  points[i] = string_at(entry) == name
  letters[i] = is_foreign and 'f' or (found or '') ~= read and 'c' or found and 'd' or 'm'
end

for i = 1, #letters do
  local record, entry, name = KEYS[2 * i + 1], KEYS[2 * i + 2], ARGV[2 * i]
  if letters[i] == 'd' then
    redis.call('DEL', record)
    if points[i] then
      redis.call('DEL', entry)
    end
  end
  if letters[i] == 'd' or letters[i] == 'm' then
    redis.call('SREM', index, name)
  end
end
local answer = table.concat(letters)
redis.call('SET', answer_key, answer, 'EX', seconds)
return answer
