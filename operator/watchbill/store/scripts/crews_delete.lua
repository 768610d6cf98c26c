-- Deletes crews with all that points at them: each one whole, and only if its record is still the one that was read.
-- A crew read as missing only leaves the index.
-- KEYS
--   1 index
--   2 answer_key
--   3 ...                 for each crew: its record, its id's entry (the record again where the id is unknown)
-- ARGV
--   1 seconds             for which the answer is kept
--   2 ...                 for each crew: its name, its record as read ('' for none)
-- Answers one letter per crew, in order: d deleted, m missing, c changed since it was read
local index, answer_key, seconds = KEYS[1], KEYS[2], ARGV[1]
local answered = redis.call('GET', answer_key)
if answered then
  return answered -- our first send was applied and its reply was lost
end
redis.call('SISMEMBER', index, '') -- these reads fail, before any write, if another program's key is in the way
local letters, points = {}, {}
for i = 1, (#KEYS - 2) / 2 do
  local record, entry, name, read = KEYS[2 * i + 1], KEYS[2 * i + 2], ARGV[2 * i], ARGV[2 * i + 1]
  local found = redis.call('GET', record)
  points[i] = redis.call('GET', entry) == name
  letters[i] = (found or '') ~= read and 'c' or found and 'd' or 'm'
end

for i = 1, #letters do
  local record, entry, name = KEYS[2 * i + 1], KEYS[2 * i + 2], ARGV[2 * i]
  if letters[i] == 'd' then
    redis.call('DEL', record)
    if points[i] then
      redis.call('DEL', entry)
    end
  end
  if letters[i] ~= 'c' then
    redis.call('SREM', index, name)
  end
end
local answer = table.concat(letters)
redis.call('SET', answer_key, answer, 'EX', seconds)
return answer
